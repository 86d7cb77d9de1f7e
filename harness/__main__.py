"""The program `harness`, as the console script and as `python -m harness`."""

from harness.stops import stoppable


def main() -> None:
    """Entry point: signals are taken before anything is imported that takes time."""
    with stoppable("harness"):
        from harness.cli.app import app

        app()


if __name__ == "__main__":
    main()
