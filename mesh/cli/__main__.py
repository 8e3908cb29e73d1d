"""`python -m mesh.cli`, the same as `isthmus`."""

from mesh.cli.main import main

if __name__ == "__main__":
    main()
