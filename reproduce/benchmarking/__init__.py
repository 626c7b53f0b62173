"""How fast the suite is: cases, workloads, true-scale rehearsal."""
