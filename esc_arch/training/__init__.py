"""Training that survives kills, full disks and damaged files: the loop of ``basicsr train``."""
