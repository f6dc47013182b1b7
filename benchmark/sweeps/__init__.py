"""Many cells and trainings from one file: what is to be done, what is done, and doing it. No scheduler is known here."""
