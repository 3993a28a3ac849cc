-- Indexes that find unused lanes and services, and circuits with an expired state, without a scan
-- of all lanes and steps.

CREATE INDEX template_steps_of_lane ON template_steps (lane_id);
CREATE INDEX lanes_of_service ON lanes (service_id);

-- Few services are in a state that ends by itself. An update of other columns does not touch this
-- index.
CREATE INDEX services_lapse ON services (least(until, forced_until)) WHERE until IS NOT NULL OR forced_until IS NOT NULL;
