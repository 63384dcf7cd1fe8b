"""Diagnosis after the fact: from what a run logged to the findings that the live monitor would have."""

from lightning_adam.doctor.judgement import Gap, RunReport
from lightning_adam.doctor.reporting import Report, report
from lightning_adam.doctor.sources import UnusableLog

__all__ = ["Gap", "Report", "RunReport", "UnusableLog", "report"]
