"""`python -m proguard_edge`: the same as the `proguard-edge` command."""

from proguard_edge.cli import main

main(prog_name="proguard-edge")
