"""The command line: the only part that imports Typer and Rich."""
