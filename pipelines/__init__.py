"""Where it runs: Beam transforms, jobs, options and the command line. Imports no model library at module level."""
