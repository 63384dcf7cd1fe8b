"""One object per optimizer that measures, diagnoses, records and acts; asks whoever trains through a small protocol."""
