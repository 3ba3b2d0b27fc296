"""What a run says about itself: records, memory, progress."""

from hedgerow.telemetry.records import (
    AdjustmentRecord,
    CandidateRecord,
    Failure,
    Measured,
    PhaseBytes,
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
    "Measured",
    "PhaseBytes",
    "RecalibrationRecord",
    "RoundRecord",
    "SectionBytes",
    "SelectionRecord",
    "read_records",
]
