"""The version, once: packaging reads it from here, and every log carries it."""

VERSION = "0.1.0"
