"""The job at its true size, with synthetic passages: `python -m tests.rehearsal`."""
