"""The operator: watches FineTuneJobs, runs one batch/v1 Job per attempt and reports what happened."""
