"""What keeps a long run honest: ranks that agree before each optimiser step, batches that did harm, hangs, and the clock."""
