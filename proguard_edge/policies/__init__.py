"""The policy that ships with the package, and the reader of policy files."""
