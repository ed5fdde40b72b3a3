// Walks @azure/service-bus over a broker and prints one JSON line per step: {"step", "result"} or {"step", "error"}.
// node servicebus.mjs <connection string of the AMQP port> <connection string of the admin port>
import { ServiceBusAdministrationClient, ServiceBusClient } from "@azure/service-bus";

const [, , amqp, admin] = process.argv;
const client = new ServiceBusClient(amqp, { retryOptions: { maxRetries: 0, timeoutInMs: 10_000 } });
const soon = { maxWaitTimeInMs: 5_000 };
const bodies = (messages) => messages.map((message) => message.body);

async function step(name, act) {
  let line = { step: name };
  try {
    line.result = (await act()) ?? null;
  } catch (error) {
    line.error = { code: error.code ?? error.name, message: error.message };
  }
  console.log(JSON.stringify(line));
}

// ---------------------------------------------------------------- queues
const sender = client.createSender("orders");
const receiver = client.createReceiver("orders");
let held;

await step("send", () => sender.sendMessages({ body: { n: 1 }, messageId: "m1", subject: "s", applicationProperties: { x: 1 } }));
await step("batch", async () => {
  const batch = await sender.createMessageBatch();
  for (let number = 0; number < 10; number += 1) batch.tryAddMessage({ body: `b${number}` });
  await sender.sendMessages(batch);
  return batch.count;
});
await step("peek", async () => bodies(await receiver.peekMessages(20)));
await step("receive", async () => {
  held = await receiver.receiveMessages(3, soon);
  const [first] = held;
  const { body, messageId, subject, applicationProperties, deliveryCount, state } = first;
  return { body, messageId, subject, applicationProperties, deliveryCount, state, number: first.sequenceNumber.toString() };
});
await step("renew", async () => (await receiver.renewMessageLock(held[0])) > new Date());
await step("complete", () => receiver.completeMessage(held[0]));
await step("complete twice", () => receiver.completeMessage(held[0]));
await step("abandon", () => receiver.abandonMessage(held[1], { why: "later" }));
await step("redelivered", async () => {
  const [again] = await receiver.receiveMessages(1, soon);
  await receiver.completeMessage(again);
  return [again.body, again.deliveryCount, again.applicationProperties.why];
});
await step("defer", () => receiver.deferMessage(held[2]));
await step("deferred", async () => {
  const [deferred] = await receiver.receiveDeferredMessages([held[2].sequenceNumber]);
  await receiver.deadLetterMessage(deferred, { deadLetterReason: "r", deadLetterErrorDescription: "d" });
  return [deferred.body, deferred.state];
});
await step("dead letter", async () => {
  const graves = client.createReceiver("orders", { subQueueType: "deadLetter" });
  const [dead] = await graves.receiveMessages(1, soon);
  await graves.completeMessage(dead);
  await graves.close();
  return [dead.body, dead.deadLetterReason, dead.deadLetterErrorDescription];
});
await step("schedule and cancel", async () => {
  const [number] = await sender.scheduleMessages({ body: "later" }, new Date(Date.now() + 60_000));
  await sender.cancelScheduledMessages(number);
  return (await receiver.peekMessages(20, { fromSequenceNumber: number })).length;
});
await step("subscribe", () => new Promise((resolve, reject) => {
  const seen = [];
  const subscription = receiver.subscribe({
    processMessage: async (message) => {
      seen.push(message.body);
      if (seen.length === 8) setImmediate(() => subscription.close().then(() => resolve(seen), reject));
    },
    processError: async ({ error }) => reject(error),
  });
}));
await step("receive and delete", async () => {
  await sender.sendMessages([{ body: 1 }, { body: 2 }]);
  const taker = client.createReceiver("orders", { receiveMode: "receiveAndDelete" });
  const taken = await taker.receiveMessages(2, soon);
  await taker.close();
  return bodies(taken);
});
await step("nothing there", async () => (await receiver.receiveMessages(1, { maxWaitTimeInMs: 200 })).length);
await step("too large", () => sender.sendMessages({ body: "x".repeat(300_000) }));
await step("unknown queue", () => client.createSender("nowhere").sendMessages({ body: 1 }));

// ---------------------------------------------------------------- sessions
await step("session", async () => {
  await client.createSender("talks").sendMessages([{ body: "a", sessionId: "s1" }, { body: "b", sessionId: "s1" }]);
  const session = await client.acceptNextSession("talks");
  const messages = await session.receiveMessages(2, soon);
  await session.setSessionState(Buffer.from("half way"));
  const renewed = (await session.renewSessionLock()) > new Date();
  for (const message of messages) await session.completeMessage(message);
  const state = (await session.getSessionState()).toString();
  await session.close();
  return { id: session.sessionId, bodies: bodies(messages), state, renewed };
});
await step("session is taken", async () => {
  const session = await client.acceptSession("talks", "t");
  try {
    await client.acceptSession("talks", "t");
  } finally {
    await session.close();
  }
});

// ---------------------------------------------------------------- topics, and their rules over the link
await step("rules", async () => {
  const rules = client.createRuleManager("news", "picky");
  await rules.deleteRule("$Default");
  await rules.createRule("red", { sqlExpression: "colour = 'red'" }, { sqlExpression: "SET seen = 'yes'" });
  await rules.createRule("mine", { correlationId: "me", applicationProperties: { large: true } });
  const listed = [];
  for await (const rule of rules.listRules()) listed.push(rule);
  const said = (fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null));
  return listed.map(({ name, filter, action }) => ({ name, filter: said(filter), action }));
});
await step("add a rule twice", () => client.createRuleManager("news", "picky").createRule("red", { sqlExpression: "1 = 1" }));
await step("remove a rule that is not there", () => client.createRuleManager("news", "picky").deleteRule("blue"));
await step("topic", async () => {
  await client.createSender("news").sendMessages([
    { body: "red", applicationProperties: { colour: "red" } },
    { body: "blue", applicationProperties: { colour: "blue" } },
    { body: "mine", correlationId: "me", applicationProperties: { large: true } },
  ]);
  const reader = client.createReceiver("news", "picky", { receiveMode: "receiveAndDelete" });
  const chosen = await reader.receiveMessages(3, { maxWaitTimeInMs: 1_000 });
  await reader.close();
  return chosen.map(({ body, applicationProperties }) => [body, applicationProperties.seen ?? null]);
});
await step("receive from a topic", () => client.createReceiver("news").receiveMessages(1, soon));

// ---------------------------------------------------------------- administration, over plain HTTP
const management = new ServiceBusAdministrationClient(admin, { retryOptions: { maxRetries: 0 } });
management.pipeline.addPolicy({
  name: "plain HTTP",
  sendRequest(request, next) {
    request.url = request.url.replace(/^https:/, "http:");
    request.allowInsecureConnection = true;
    return next(request);
  },
});
await step("create queue", async () => {
  const queue = await management.createQueue("made", { lockDuration: "PT30S", maxDeliveryCount: 7 });
  return [queue.name, queue.lockDuration, queue.maxDeliveryCount, queue.status];
});
await step("create queue twice", () => management.createQueue("made"));
await step("use it", async () => {
  await client.createSender("made").sendMessages({ body: "x" });
  return (await management.getQueueRuntimeProperties("made")).activeMessageCount;
});
await step("create subscription", async () => {
  await management.createTopic("made-topic");
  await management.createSubscription("made-topic", "some");
  await management.createRule("made-topic", "some", "r", { sqlExpression: "a = 1" });
  const names = [];
  for await (const rule of management.listRules("made-topic", "some")) names.push(rule.name);
  return names.sort();
});
await step("delete queue", async () => {
  await management.deleteQueue("made");
  return management.queueExists("made");
});
await step("close", () => client.close());
