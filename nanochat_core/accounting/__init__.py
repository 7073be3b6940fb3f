"""What runs took and cost: seconds by kind, dollars, and a record's clock."""
