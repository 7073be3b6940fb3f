"""What every part of the core leans on: errors, units, hardware facts, distributed set-up, fingerprints."""
