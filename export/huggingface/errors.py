"""Why a checkpoint cannot become a bundle."""


class CheckpointError(ValueError):
    """A refusal; its message says what was expected and what was found."""
