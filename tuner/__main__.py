"""The program `tuner`, as the console script and as `python -m tuner`."""

from harness.stops import stoppable


def main() -> None:
    """Entry point: signals are taken before anything is imported that takes time."""
    with stoppable("tuner"):
        from tuner.cli.app import app

        app()


if __name__ == "__main__":
    main()
