"""Every span, attribute and metric name, once.

Messaging and GenAI names follow the OpenTelemetry semantic conventions 1.44 (both still in development there,
which is why they are written down in one place).
"""

# Span names are `{verb} {queue}` and `{operation} {model}`.
PROCESS = "process"
SEND = "send"
RETRIEVAL = "retrieval"
CHAT = "chat"
EMBEDDINGS = "embeddings"

MESSAGING_SYSTEM = "messaging.system"
SERVICEBUS = "servicebus"
OPERATION_NAME = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
CONVERSATION_ID = "messaging.message.conversation_id"
DELIVERY_COUNT = "messaging.servicebus.message.delivery_count"
DISPOSITION = "messaging.servicebus.disposition_status"

GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

REQUEST_ID = "ragbus.request_id"
TENANT = "ragbus.tenant"
FAULT = "ragbus.fault"
USE_CASE = "ragbus.use_case"
ATTEMPT = "ragbus.attempt"

# Metrics. Durations are seconds.
PROCESS_DURATION = "messaging.process.duration"
CONSUMED = "messaging.client.consumed.messages"
SENT = "messaging.client.sent.messages"
QUEUE_TIME = "ragbus.queue.time"
RETRIES = "ragbus.retries"
RESCHEDULED = "ragbus.rescheduled"
OVER_QUOTA = "ragbus.over_quota"
DEAD_LETTERS = "ragbus.dead_letters"
OUTCOMES = "ragbus.outcomes"
OUTCOMES_UNGUARDED = "ragbus.outcomes_unguarded"
REDIS_UP = "ragbus.redis.up"
QUEUE_CONNECTED = "ragbus.queue.connected"
CACHE_LOOKUPS = "ragbus.cache.lookups"
TOKENS = "gen_ai.client.token.usage"
MODEL_DURATION = "gen_ai.client.operation.duration"
MODEL_FAULTS = "ragbus.model.faults"
OVERRUNS = "ragbus.budget.overruns"
PASSAGES_EMBEDDED = "ragbus.passages.embedded"
INDEX_LAG = "ragbus.index.lag"
