//! Converts the lists of a transaction to the arrays that `unnest` takes: one statement per list.

use std::{error::Error, time::SystemTime};

use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_util::bytes::BytesMut;
use uuid::Uuid;

use crate::domain::attempt::Failure;

/// The parameters of one statement.
pub(in crate::store) type Params<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// A value of a column.
pub(in crate::store) trait Cell {
    fn is_null(&self) -> bool {
        false
    }
}

macro_rules! cells {
    ($($type:ty),*) => { $(impl Cell for $type {})* };
}
cells!(Uuid, i16, i32, i64, f64, bool, SystemTime, &str, &[u8]);

impl<T> Cell for Option<T> {
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

/// NULL of any type.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The column as a parameter. A column without any value, such as the errors of a batch without
/// failures, is a single NULL: `unnest` extends it, which saves both sides the encoding of all its
/// cells.
pub(in crate::store) fn param<T: Cell + ToSql + Sync>(column: &Vec<T>) -> &(dyn ToSql + Sync) {
    if column.iter().all(Cell::is_null) {
        &Null
    } else {
        column
    }
}

/// Declares the arrays of one list, in the order of the statement's parameters, and the value of each
/// column for an item of the list.
macro_rules! columns {
    (
        $name:ident from $item:ident: $source:ty {
            $first:ident: $first_type:ty = $first_value:expr
            $(, $field:ident: $type:ty = $value:expr)* $(,)?
        }
    ) => {
        #[derive(Default)]
        pub(in crate::store) struct $name<'a> {
            $first: Vec<$first_type>,
            $($field: Vec<$type>,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> FromIterator<&'a $source> for $name<'a> {
            fn from_iter<I: IntoIterator<Item = &'a $source>>(items: I) -> Self {
                let mut columns = Self::default();
                for $item in items {
                    columns.$first.push($first_value);
                    $(columns.$field.push($value);)*
                }
                columns
            }
        }

        impl<'a> $name<'a> {
            /// The arrays, followed by `more`; `None` for an empty list, whose statement is not
            /// sent.
            pub(in crate::store) fn params<'p>(
                &'p self,
                more: &[&'p (dyn tokio_postgres::types::ToSql + Sync)],
            ) -> Option<crate::store::pipeline::encode::Params<'p>> {
                if self.$first.is_empty() {
                    return None;
                }
                let mut params: crate::store::pipeline::encode::Params<'p> =
                    vec![&self.$first $(, crate::store::pipeline::encode::param(&self.$field))*];
                params.extend_from_slice(more);
                Some(params)
            }
        }
    };
}
pub(in crate::store) use columns;

/// The code of a failure; an empty one is NULL.
pub(in crate::store) fn code(failure: Option<&Failure>) -> Option<&str> {
    failure
        .map(|failure| failure.code.as_str())
        .filter(|code| !code.is_empty())
}

pub(in crate::store) fn message(failure: Option<&Failure>) -> Option<&str> {
    failure.map(|failure| failure.message.as_str())
}

pub(in crate::store) fn context(failure: Option<&Failure>) -> Option<&str> {
    failure.and_then(|failure| failure.context.as_deref())
}
