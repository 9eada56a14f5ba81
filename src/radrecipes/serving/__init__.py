"""Answers over HTTP, as FHIR resources and as HL7 v2 messages, from one model that stays loaded."""
