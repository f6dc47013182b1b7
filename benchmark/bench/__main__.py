"""`python -m benchmark.bench`."""

from benchmark.bench import main

if __name__ == "__main__":
    main()
