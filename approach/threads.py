"""How torch's threads wait for one another: one choice for every script."""

import os

# How often GNU's OpenMP runtime, which torch's Linux wheels bring, looks for new work before a thread sleeps. Against
# spinning on (300,000, its default) this gave 0.91 to 0.97 of the speed on two quiet cores and 2.4 to 9 times the
# speed beside another busy process; against sleeping at once, 1.3 to 1.6 times and 0.5 to 0.7 (benchmarks/waiting.py).
SPINS = "10000"


def choose_waiting() -> None:
    """
    Lets threads spin briefly and then sleep, so that they leave the cores to others; before torch is imported.

    What the user has set in the environment stands. Other OpenMP runtimes ignore the setting.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
