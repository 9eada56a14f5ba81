"""Answers over HTTP, as FHIR resources and as HL7 v2 messages, from one model that stays loaded."""

import re

# What identifies an order: printed in answers, acknowledgements and the audit log.
ORDER_ID = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
