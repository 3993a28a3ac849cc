//! The simulated world: four services with their own state, their own ports, and the faults of one
//! plan.

use std::{sync::Arc, time::Duration};

use clap::Args;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    billing::BillingService,
    front::Front,
    notification::NotificationService,
    preferences::PreferencesService,
    user::{NewAccount, UserService, user_id},
};
use crate::{
    faults::{Fault, FaultPlan, Prior},
    place::Place,
    population::Applicant,
};

pub mod billing;
pub mod front;
pub mod listener;
pub mod notification;
pub mod preferences;
pub mod user;

/// Where the services listen; 0 takes any free port.
#[derive(Args, Clone, Debug)]
pub struct Ports {
    #[arg(long, env = "USER_PORT", default_value_t = 3001)]
    pub user_port: u16,
    #[arg(long, env = "BILLING_PORT", default_value_t = 3002)]
    pub billing_port: u16,
    #[arg(long, env = "PREFERENCES_PORT", default_value_t = 3003)]
    pub preferences_port: u16,
    #[arg(long, env = "NOTIFICATION_PORT", default_value_t = 3004)]
    pub notification_port: u16,
}

/// The addresses at which callers find the services.
#[derive(Args, Clone, Debug)]
pub struct Urls {
    #[arg(
        long = "user-url",
        env = "USER_SERVICE_URL",
        default_value = "http://localhost:3001"
    )]
    pub user: String,
    #[arg(
        long = "billing-url",
        env = "BILLING_SERVICE_URL",
        default_value = "http://localhost:3002"
    )]
    pub billing: String,
    #[arg(
        long = "preferences-url",
        env = "PREFERENCES_SERVICE_URL",
        default_value = "http://localhost:3003"
    )]
    pub preferences: String,
    #[arg(
        long = "notification-url",
        env = "NOTIFICATION_SERVICE_URL",
        default_value = "http://localhost:3004"
    )]
    pub notification: String,
}

/// The parts of one applicant's registration that the services hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// An account with the applicant's own data; another user's account under the same e-mail does
    /// not count.
    pub account: bool,
    pub active: bool,
    pub billing: bool,
    pub preferences: bool,
    pub welcome_mails: u32,
}

impl Holdings {
    /// Whether every part that a registration creates exists.
    pub fn complete(self) -> bool {
        self.account && self.billing && self.preferences && self.welcome_mails > 0
    }

    /// Whether no part of the registration exists.
    pub fn nothing(self) -> bool {
        !(self.account || self.billing || self.preferences || self.welcome_mails > 0)
    }
}

/// The four services, running.
pub struct World {
    pub urls: Urls,
    users: Arc<UserService>,
    billing: Arc<BillingService>,
    preferences: Arc<PreferencesService>,
    notification: Arc<NotificationService>,
    stop: CancellationToken,
    running: TaskTracker,
}

impl World {
    /// Starts the services with empty state, except for the accounts that the plan requires
    /// beforehand.
    pub async fn start(
        place: Place,
        ports: &Ports,
        plan: FaultPlan,
        stall: Duration,
        applicants: &[Applicant],
    ) -> anyhow::Result<Self> {
        let front = || Front::new(plan, stall);
        let (users, billing) = (
            Arc::new(UserService::new(front())),
            Arc::new(BillingService::new(front())),
        );
        let preferences = Arc::new(PreferencesService::new(front()));
        let notification = Arc::new(NotificationService::new(front()));
        for applicant in applicants {
            if let Some(known) = known_before(plan, applicant) {
                users.insert(known);
            }
        }
        let (stop, running) = (CancellationToken::new(), TaskTracker::new());
        let open = async |port, flag, router| {
            let (listener, url) = place.bind(port, flag).await?;
            running.spawn(listener::serve(
                listener,
                router,
                stop.clone(),
                running.clone(),
            ));
            anyhow::Ok(url)
        };
        let urls = Urls {
            user: open(ports.user_port, "--user-port", users.clone().router()).await?,
            billing: open(
                ports.billing_port,
                "--billing-port",
                billing.clone().router(),
            )
            .await?,
            preferences: open(
                ports.preferences_port,
                "--preferences-port",
                preferences.clone().router(),
            )
            .await?,
            notification: open(
                ports.notification_port,
                "--notification-port",
                notification.clone().router(),
            )
            .await?,
        };
        Ok(Self {
            urls,
            users,
            billing,
            preferences,
            notification,
            stop,
            running,
        })
    }

    /// The applicant's present holdings.
    pub fn holdings(&self, applicant: &Applicant) -> Holdings {
        let id = user_id(&applicant.email);
        let account = self
            .users
            .account(&applicant.email)
            .filter(|account| account.name == applicant.name);
        Holdings {
            active: account
                .as_ref()
                .is_some_and(|account| account.status == "active"),
            account: account.is_some(),
            billing: self.billing.has_profile(&id),
            preferences: self.preferences.has_preferences(&id),
            welcome_mails: self.notification.mails_to(&id),
        }
    }

    /// Switches the billing service off, or on again.
    pub fn set_billing_down(&self, down: bool) {
        self.billing.front.set_down(down);
    }

    /// Every fault that was injected since the start.
    pub fn faults(&self) -> Vec<Fault> {
        let fronts = [
            &self.users.front,
            &self.billing.front,
            &self.preferences.front,
            &self.notification.front,
        ];
        fronts.into_iter().flat_map(Front::faults).collect()
    }

    /// Closes every connection and frees the ports.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}

/// The account that exists under the applicant's e-mail beforehand.
fn known_before(plan: FaultPlan, applicant: &Applicant) -> Option<NewAccount> {
    let name = match plan.prior(&applicant.email) {
        Prior::New => return None,
        Prior::SameData => applicant.name.clone(),
        Prior::OtherData => "Somebody Else".to_owned(),
    };
    Some(NewAccount {
        email: applicant.email.clone(),
        name,
        phone: applicant.phone.clone(),
        plan: applicant.plan.to_owned(),
    })
}
