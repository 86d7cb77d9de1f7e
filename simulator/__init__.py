"""Record types today; traces, policies, hardware profiles and the event engine as they come."""
