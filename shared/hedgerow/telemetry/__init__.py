"""What a run says about itself: records, memory, progress."""

from hedgerow.telemetry.records import (
    AdjustmentRecord,
    CandidateRecord,
    Failure,
    LevelRecord,
    Measured,
    PhaseBytes,
    PlanRecord,
    RecalibrationRecord,
    RoundRecord,
    SectionBytes,
    SelectionRecord,
    read_records,
)

__all__ = [
    "AdjustmentRecord",
    "CandidateRecord",
    "Failure",
    "LevelRecord",
    "Measured",
    "PhaseBytes",
    "PlanRecord",
    "RecalibrationRecord",
    "RoundRecord",
    "SectionBytes",
    "SelectionRecord",
    "read_records",
]
