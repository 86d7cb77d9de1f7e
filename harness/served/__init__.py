"""What serving engines and load generators write down about speculation: read, checked, weighed, advised on."""
