"""Weights & Biases, for the scripts that report to it."""

from approach.errors import UserError, user_errors


def check_wandb_login() -> None:
    """
    Asks W&B for credentials before hours of work that would be reported to it.

    Raises:
        UserError: where nobody is logged in, or W&B cannot be reached.
    """
    import wandb  # two seconds, which a run without W&B does not need

    if wandb.setup().settings.mode in ("offline", "dryrun", "disabled"):
        return
    way_out = "run `wandb login`, or set WANDB_MODE=offline"
    with user_errors("--report_to", "wandb", hint=f": {way_out}"):
        is_logged_in = wandb.login(prompt=False)
    if not is_logged_in:
        raise UserError(f"--report_to wandb: you are not logged in: {way_out}")
