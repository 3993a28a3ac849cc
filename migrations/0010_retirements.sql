-- Retired versions, which take no new tasks, and the removal of those without tasks.

ALTER TYPE event_type ADD VALUE 'template.retired';
ALTER TYPE event_type ADD VALUE 'template.restored';

CREATE TYPE template_standing AS ENUM ('retired', 'restored', 'removed');

-- State of a version that was retired at some time; its own row keeps the registration. Each change
-- takes the next number, and the registration lock serialises the writers (store/template.rs), so
-- numbers become visible in ascending order, and a server reads the rows above the last number it
-- knows.
CREATE TABLE retirements (
    template_id int PRIMARY KEY,                  -- a removed version has no row in templates
    change_id   bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    standing    template_standing NOT NULL,
    at          timestamptz NOT NULL,
    actor       text NOT NULL,
    reason      text NOT NULL
);

-- A registered version still never changes. Retention removes it only after its retirement.
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM retirements WHERE template_id = OLD.template_id AND standing = 'retired') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% rows stay while their template is not retired: retire it first', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

DROP TRIGGER templates_immutable ON templates;
CREATE TRIGGER templates_immutable BEFORE UPDATE ON templates
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER templates_stay BEFORE DELETE ON templates
    FOR EACH ROW EXECUTE FUNCTION refuse_removal();

DROP TRIGGER template_steps_immutable ON template_steps;
CREATE TRIGGER template_steps_immutable BEFORE UPDATE ON template_steps
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER template_steps_stay BEFORE DELETE ON template_steps
    FOR EACH ROW EXECUTE FUNCTION refuse_removal();
