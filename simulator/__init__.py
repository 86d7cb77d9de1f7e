"""Record types, policies and the replay today; hardware profiles and the event engine as they come."""
