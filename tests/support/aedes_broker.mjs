// Aedes as its documentation starts it, on a port of 127.0.0.1, with its sessions in a database (LevelDB) below a folder.
// Read by node from standard input, so that the packages are those of the current folder: PORT and FOLDER say the rest.

import { createServer } from "node:net";
import { Aedes } from "aedes";
import persistence from "aedes-persistence-level";
import { Level } from "level";

const { PORT, FOLDER } = process.env;
const broker = await Aedes.createBroker({
  persistence: persistence(new Level(FOLDER, { valueEncoding: "binary" })),
});
for (const event of ["clientError", "connectionError"]) {
  broker.on(event, (client, error) => console.log(event, client?.id, error.message));
}
broker.on("client", (client) => console.log("connected", client.id, "MQTT", client.version));
broker.on("clientReady", (client) => console.log("ready", client.id)); // what it had not acknowledged was sent again
broker.on("ack", (packet, client) => console.log("acked", client.id));
broker.on("clientDisconnect", (client) => console.log("disconnected", client.id));
createServer(broker.handle).listen(Number(PORT), "127.0.0.1");
