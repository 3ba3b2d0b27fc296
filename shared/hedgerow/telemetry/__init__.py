"""What a run says about itself: records, memory, progress."""

from hedgerow.telemetry.records import Failure, Measured, PhaseBytes, RoundRecord, SectionBytes, read_records

__all__ = ["Failure", "Measured", "PhaseBytes", "RoundRecord", "SectionBytes", "read_records"]
