"""What contributors run beside make: generated pages, the site, the count of words."""
