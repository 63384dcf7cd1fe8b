"""All cases: importing this enters every round of them."""

from __future__ import annotations

from tests.benchmarks.preflight import (  # noqa: F401
    faulty,
    faulty_behaviour,
    faulty_more,
    fresh_faulty,
    fresh_healthy,
    healthy,
    healthy_more,
    healthy_tasks,
    latecomers_faulty,
    latecomers_healthy,
    newcomers_faulty,
    newcomers_healthy,
    outsiders_faulty,
    outsiders_faulty_behaviour,
    outsiders_faulty_data,
    outsiders_faulty_more,
    outsiders_healthy,
    outsiders_healthy_more,
    outsiders_healthy_shapes,
    outsiders_healthy_tuned,
    pilgrims_faulty,
    pilgrims_faulty_loss,
    pilgrims_faulty_more,
    pilgrims_faulty_plan,
    pilgrims_healthy,
    pilgrims_healthy_more,
    strangers_faulty,
    strangers_healthy,
    travellers_faulty,
    travellers_faulty_more,
    travellers_faulty_plan,
    travellers_healthy,
    travellers_healthy_more,
    visitors_faulty,
    visitors_faulty_more,
    visitors_healthy,
)
from tests.benchmarks.preflight.register import FAULTY, HEALTHY, part_of

__all__ = ["FAULTY", "HEALTHY", "part_of"]
