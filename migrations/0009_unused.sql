-- What nothing uses any more is found without reading every lane and step for it, and so is a circuit whose time has come.

CREATE INDEX template_steps_of_lane ON template_steps (lane_id);
CREATE INDEX lanes_of_service ON lanes (service_id);

-- Few services are in a state that ends by itself. The update of no other column touches this index.
CREATE INDEX services_lapse ON services (least(until, forced_until)) WHERE until IS NOT NULL OR forced_until IS NOT NULL;
