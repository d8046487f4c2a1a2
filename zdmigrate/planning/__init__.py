"""Pure: changes and a catalog snapshot in, a plan out. Nothing here holds a connection."""
