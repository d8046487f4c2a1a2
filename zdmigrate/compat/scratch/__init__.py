"""Where a check happens: servers, starting schemas, ordinary roles, the project's own code."""
