"""`python -m sphere_mnist` is the command `sphere_mnist`."""
import sys
from sphere_mnist.cli import main

if __name__ == '__main__': sys.exit(main())
