"""What a run says about itself: records, memory, progress."""

from hedgerow.telemetry.records import Failure, Measured, RoundRecord, SectionBytes, read_records

__all__ = ["Failure", "Measured", "RoundRecord", "SectionBytes", "read_records"]
