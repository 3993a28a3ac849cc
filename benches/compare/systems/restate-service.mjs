// The process with Restate's handlers:   node restate-service.mjs PORT

import http2 from 'node:http2';

import * as restate from '@restatedev/restate-sdk';

const STEPS = ['first', 'second', 'third', 'fourth', 'fifth'];

const step = restate.service({
  name: 'step',
  handlers: { run: async (_ctx, _input) => ({ ok: true }) },
});

// A plain service: a `restate.workflow` would pay for a key that nobody asks for here.
const chain = restate.service({
  name: 'chain',
  handlers: {
    /** Each step is a call through the server to a service, which could be anywhere. */
    remote: async (ctx, input) => {
      let done = 0;
      for (const _ of STEPS) done += (await ctx.serviceClient(step).run(input)).ok;
      return done;
    },
    /** Each step runs here; its result goes into the journal. */
    inside: async (ctx, _input) => {
      let done = 0;
      for (const name of STEPS) done += (await ctx.run(name, () => ({ ok: true }))).ok;
      return done;
    },
  },
});

const endpoint = restate.createEndpointHandler({ services: [chain, step] });
http2.createServer(endpoint).listen(Number(process.argv[2]), '127.0.0.1');
