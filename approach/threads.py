"""How torch's threads wait for one another: one choice for every script."""

import os


def choose_waiting() -> None:
    """
    Lets threads wait instead of spin, so that they leave the cores to others; before torch is imported.

    What the user has set in the environment stands.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
