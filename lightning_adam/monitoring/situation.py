"""What is found on one rank, for an action to answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_adam.diagnosis import Finding
from lightning_adam.diagnosis.facts import FACTS
from lightning_adam.monitoring.optimizer_diagnosis import OptimizerDiagnosis


@dataclass(frozen=True)
class Situation:
    """All findings but those of how the loss is made, which no action mends; by the clock of the first optimizer.

    Attributes:
        fresh: that nobody has acted on.
        lasting: those that are not over.
        has_learnt: whether the loss is under where it began. Where it is not, a warning that outlives the last action
            is enough to stop: what a lower rate does not mend may have been silenced by having become usual.
    """

    fresh: Sequence[Finding]
    lasting: Sequence[Finding]
    has_learnt: bool

    @classmethod
    def of(cls, diagnoses: Sequence[OptimizerDiagnosis]) -> Situation:
        """Of all optimizers."""
        fresh = [f for d in diagnoses for f in d.by_the_clock_of_first(d.fresh) if f.rule not in FACTS]
        lasting = [f for d in diagnoses for f in d.by_the_clock_of_first(d.diagnosis.lasting) if f.rule not in FACTS]
        return cls(fresh, lasting, all(d.diagnosis.history.has_learnt for d in diagnoses))

    @property
    def is_critical(self) -> bool:
        """Whether something critical goes on."""
        return any(finding.severity == "critical" for finding in self.lasting)
