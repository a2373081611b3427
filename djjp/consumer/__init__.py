"""The runtime floor: takes jobs and runs them."""
