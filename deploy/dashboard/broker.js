"use strict";
// The connection to the broker: what is heard, requests, and commands with their answers. Touches no element.

const Broker = (() => {
  const REFUSED = [4, 5, 134, 135]; // 4, 5: MQTT 3.1.1; 134, 135: MQTT 5. Another attempt does not help.
  const NOT_ALLOWED = 135;
  const COMMAND_S = 60; // a change of tasks has the model read their prompts first

  const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");

  // Why a command was not obeyed. `notAllowed`: the broker did not let it through to the daemon.
  class Refusal extends Error {
    constructor(message, { field = null, notAllowed = false } = {}) {
      super(field ? `${field}: ${message}` : message);
      this.notAllowed = notAllowed;
    }
  }

  class Connection {
    #client;
    #on;
    #prefix;
    #open = new Map(); // transaction -> {resolve, reject, timer}

    // `on`: connected(), heard(topic, text, retained), lost(wasConnected), failed(text): then the connection has ended.
    constructor({ url, user, password, prefix, filters, extraFilters }, on) {
      this.user = user || "dashboard";
      this.#prefix = prefix;
      this.#on = on;
      const id = `${this.user}-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;
      this.inbox = (node) => `${prefix}/${node}/reply/${this.user}/${id}`;
      // Throws where the address is none.
      this.#client = mqtt.connect(url, {
        protocolVersion: 5, clientId: id, username: user || undefined, password: user ? password : undefined,
        connectTimeout: 10000, reconnectPeriod: 2000, keepalive: 30,
      });
      this.#listen(url, [...filters, `${this.inbox("+")}/#`], extraFilters);
    }

    #listen(url, filters, extraFilters) {
      let wasConnected = false;
      const client = this.#client;
      client.on("connect", () => {
        wasConnected = true;
        client.subscribe(filters, { qos: 1 }, (error) => error && this.#fail(error.message));
        // Not every user may read these; a broker may say so.
        for (const each of extraFilters) client.subscribe(each, { qos: 1 }, () => {});
        this.#on.connected();
      });
      client.on("message", (topic, payload, packet) => this.#hear(topic, new TextDecoder().decode(payload), packet.retain));
      client.on("error", (error) => {
        if (REFUSED.includes(error.code)) this.#fail(t("The broker refuses this user or password."));
        else if (!wasConnected) this.#fail(t("The broker cannot be reached: {why}", { why: error.message || t("is the address right?") }));
      });
      client.on("close", () => {
        if (!this.#client) return;
        if (wasConnected) this.#on.lost();
        // Browsers show the reason in their console only, and do not tell it to the page.
        else this.#fail(t("No broker answers at {url}.", { url }) + hint(url));
      });
    }

    #fail(text) {
      if (!this.#client) return;
      this.end();
      this.#on.failed(text);
    }

    end() {
      const old = this.#client;
      this.#client = null;
      for (const { reject, timer } of this.#open.values()) {
        clearTimeout(timer);
        reject(new Refusal(t("The connection was ended.")));
      }
      this.#open.clear();
      if (old) old.end(true);
    }

    #hear(topic, text, retained) {
      if (!this.#client) return;
      const body = Fleet.parse(text);
      const open = this.#open.get(body?.transaction);
      if (open && topic.split("/").includes("reply")) {
        this.#open.delete(body.transaction);
        clearTimeout(open.timer);
        if (body.status === "ok") open.resolve(body.data ?? {});
        else open.reject(new Refusal(String(body.error?.message ?? body.error?.code), { field: body.error?.field }));
      } else {
        this.#on.heard(topic, text, retained);
      }
    }

    // Asks for a task in a session of the user's own name: the access list of deploy/mosquitto lets a user speak there.
    ask(node, task, text, onRefused) {
      const id = random();
      const topic = `${this.#prefix}/${node}/in/${task}/${this.user}`;
      const body = { id, text, stream: true, reply_to: this.inbox(node) };
      this.#client.publish(topic, JSON.stringify(body), { qos: 1 }, (error) => error && onRefused(id, error.message));
      return id;
    }

    // Gives a daemon a command; a promise of the answer's data. Rejects with a Refusal.
    command(node, name, body = {}) {
      const transaction = random();
      return new Promise((resolve, reject) => {
        const close = (refusal) => {
          if (this.#open.delete(transaction)) reject(refusal);
        };
        const timer = setTimeout(() => close(new Refusal(t("{node} has not answered.", { node }))), COMMAND_S * 1000);
        this.#open.set(transaction, { resolve, reject, timer });
        const properties = { responseTopic: this.inbox(node), messageExpiryInterval: COMMAND_S };
        const topic = `${this.#prefix}/${node}/request/${name}`;
        this.#client.publish(topic, JSON.stringify({ ...body, transaction }), { qos: 1, properties }, (error) => {
          if (!error) return;
          clearTimeout(timer);
          close(new Refusal(error.message, { notAllowed: error.code === NOT_ALLOWED }));
        });
      });
    }
  }

  function hint(url) {
    if (!url.startsWith("wss:")) return "";
    return t(" If its certificate is your own authority's, open {url} once and accept it.", { url: url.replace(/^wss/, "https") });
  }

  return { Connection, Refusal };
})();
