"""The `isthmus` command: one module a command. `docs/cli.md` is made from it."""
