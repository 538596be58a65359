"""`python -m mvtrack`: the same as the console command."""

from mvtrack.cli.main import main
from mvtrack.config.errors import leave

if __name__ == "__main__":
    leave(main())
