"""Options, training, evaluation, records. Nothing here is imported by importing the package, so
that options are checked before torch is loaded."""
