"""`python -m pipelines.cli`: the same as the command `synchrochain`."""

from pipelines.cli.app import main

if __name__ == "__main__":
    main()
