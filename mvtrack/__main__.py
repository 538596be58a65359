"""`python -m mvtrack`: the same as the console command."""

from mvtrack.cli.main import program

if __name__ == "__main__":
    program()
