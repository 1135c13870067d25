"""Programs as users write them; the README and `dagrun demo` show them."""
