// The process with the clients of one system, and whatever else the system wants in the same process.
//
//   node load.mjs SYSTEM SECONDS CLIENTS,CLIENTS,…     where the system is stands as JSON in COMPARE_TARGET
//
// The last line of stdout is an object: what was measured, by the number of clients.

const STEPS = 5;
/** What `tasker bench` submits. */
const PAYLOAD = { email: 'ann@example.com', name: 'Ann', plan: 'pro', source: 'web' };
/** Before anything is measured: what runs has to be compiled first, and connections made. */
const WARM_UP = { clients: 64, seconds: 3 };
/** Of a phase, before anything counts; as in `tasker bench`. */
const SETTLE_SECONDS = 0.5;

const [system, seconds, list] = process.argv.slice(2);
const { open } = await import(`./systems/${system}.mjs`);
const { chain, close } = await open(JSON.parse(process.env.COMPARE_TARGET));

await phase(WARM_UP.clients, WARM_UP.seconds);
const measured = {};
for (const clients of list.split(',').map(Number)) {
  measured[clients] = await phase(clients, Number(seconds));
  console.error(`${system}, ${clients} at once: ${measured[clients].workflows_per_second.toFixed(0)} workflows/s`);
}
await close();
console.log(JSON.stringify(measured));
process.exit();

/** Lets `clients` run one chain after the other, and at least two each, for as long as `tasker bench` would. */
async function phase(clients, seconds) {
  const from = performance.now() + SETTLE_SECONDS * 1e3;
  const until = from + seconds * 1e3;
  const times = [];
  let done = 0;
  const client = async () => {
    for (let n = 0; n < 2 || performance.now() < until; n += 1) {
      const began = performance.now();
      const steps = await chain(PAYLOAD);
      const ended = performance.now();
      if (steps !== STEPS) throw new Error(`a chain of ${STEPS} came back with ${steps} steps`);
      if (began >= from) times.push(ended - began);
      // A chain counts by the part of it that lies inside: many slow ones end together, and must not all be in or out.
      done += Math.max(Math.min(ended, until) - Math.max(began, from), 0) / (ended - began);
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  times.sort((a, b) => a - b);
  return {
    workflows_per_second: done / seconds,
    steps_per_second: (done * STEPS) / seconds,
    p50_ms: percentile(times, 50),
    p99_ms: percentile(times, 99),
  };
}

/** The nearest rank. */
function percentile(sorted, percent) {
  return sorted[Math.ceil((sorted.length * percent) / 100) - 1];
}
