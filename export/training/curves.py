"""The training log as a picture."""

from pathlib import Path


def draw_curves(history: list[dict[str, float]], path: Path) -> None:
    """Plot the losses, and every other validation figure below them, over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    others = [name for name in history[0] if name.startswith("valid_") and name != "valid_loss"]
    figure, axes = pyplot.subplots(
        1 + len(others), 1, sharex=True, squeeze=False, figsize=(7, 3 + 2 * len(others))
    )
    epochs = [record["epoch"] for record in history]
    for name in ("train_loss", "valid_loss"):
        axes[0][0].plot(epochs, [record[name] for record in history], label=name.replace("_", " "))
    axes[0][0].set_ylabel("loss (nats)")
    axes[0][0].legend()
    for axis, name in zip(axes[1:, 0], others, strict=True):
        axis.plot(epochs, [record[name] for record in history], color="tab:green")
        axis.set_ylabel(name.removeprefix("valid_").replace("_", " "))
    for axis in axes[:, 0]:
        axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel("epoch")
    figure.tight_layout()
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    pyplot.close(figure)
    partial.replace(path)
